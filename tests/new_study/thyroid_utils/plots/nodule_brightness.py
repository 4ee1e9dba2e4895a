"""The figure of the study of nodules' brightness."""

import pandas as pd
from matplotlib.figure import Figure

from thyroid_utils.plots.charts import box_and_points, named_rows
from thyroid_utils.plots.style import model_colours, new_panels, styled

CAPTION = "The mean gray level inside each outline, a point an image; box: quartiles and median."


@styled
def brightness_by_class(brightness: pd.DataFrame) -> Figure:
    """A row a class of `studies.nodule_brightness.nodule_brightness`: box and points."""
    figure, (axes,) = new_panels(1, 2.4)
    classes = sorted(brightness["class"].unique())
    colours = model_colours(classes)
    for position, name in enumerate(classes):
        values = brightness.loc[brightness["class"] == name, "brightness"].to_numpy()
        box_and_points(axes, values, position, colours[name])
    named_rows(axes, classes)
    axes.set_xlabel("mean gray level inside the outline, 0 to 255")
    return figure
