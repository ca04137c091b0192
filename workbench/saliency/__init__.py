"""Saliency: the method of the paper, from activation maps and class weights to a tube.

`tubes` holds Eq. 1, Eq. 2 and the spline. `explain` runs a network once and keeps what every tube
needs; `layer_search` finds the layer and the head and proves them. How a tube is drawn is the
business of `views`.
"""
