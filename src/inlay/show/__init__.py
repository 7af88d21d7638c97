"""How results are shown: units, tables, plots, pages."""
