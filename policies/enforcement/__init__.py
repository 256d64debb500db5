"""The enforcement core: rules, the pattern language, exact matching on growing text. Texts in, decisions out."""
