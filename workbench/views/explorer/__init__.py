"""The explorer: explanations and data sets under sliders, in a notebook or in one HTML file.

`tube_view.js` computes and draws in the browser. Python sends it what it needs (`packing`), holds
the controls (`app`), packs the same view into a page (`page`), and opens one of them (`opening`).
"""
