"""From runs to what a reader sees: figures, tables, and the report made of them.

    model.py     the nouns: ReportInputs, ReportFigure, ReportTable, Made
    inputs.py    run folders -> ReportInputs
    palette.py   one colour, marker per algorithm, everywhere
    figures/     families of figures, listed in ALL_FIGURES
    tables.py    families of tables, listed in ALL_TABLES
    save.py      a figure as PNG, SVG and PDF; a table as Markdown, LaTeX and CSV

matplotlib is imported when something is drawn, so that reading runs costs no more than pandas.
"""
