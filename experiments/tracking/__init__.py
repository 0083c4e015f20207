"""How far from optimal are momentum levels on a drifting regression? Methods to compare with."""
