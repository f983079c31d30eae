"""How the miniature world's models are trained and measured; a run imports nothing from here."""
