"""Small worlds with known results, on which algorithms are validated. They are task distributions like any other."""
