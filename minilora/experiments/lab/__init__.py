"""The laboratory: what experiments share.

A *point* is everything that decides a measurement, as JSON can say it: method, rank, learning rate,
seed … Measuring it gives a *row*: the point, what came out, and on what it was run. Rows are added
to a file one by one (`rows`), by as many processes as there are (`running`), and figures and
answers come from the rows alone. So a run that was stopped goes on where it stood, and a figure
can be drawn again, or doubted, years later.

An experiment (`experiment`) says which points it wants, given the rows that there are. So it can
first find each arm's best learning rate and then measure with that one.
"""
