"""Views: what people look at.

Overlays and filmstrips are arrays, volumes and timelines are Plotly figures, and the explorer links
them under sliders. Figures for print are in `studies.figures`.
"""
