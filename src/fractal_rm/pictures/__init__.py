"""Pictures of a flow, as SVG or Mermaid. The same flow always gives the same text."""
