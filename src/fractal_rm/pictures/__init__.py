"""Draws flows as SVG or Mermaid. The same flow always gives the same text."""
