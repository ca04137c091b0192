"""Views: what people look at.

Overlays and filmstrips are arrays, volumes and timelines are Plotly figures, and the explorer
brings them together under sliders. Figures for print live in `studies.figures`.
"""
