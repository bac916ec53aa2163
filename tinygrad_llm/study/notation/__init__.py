"""The notation of formulas, and numbers: as plain text, as mathematics, and as HTML."""
