"""A small web shop: what the example's tests test."""
