"""What runs have come to, told and drawn: tables, curves, diagnoses."""
