"""The drawers of figures: of a run, of a study, of measured costs."""
