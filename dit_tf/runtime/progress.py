"""What all progress bars share."""

BAR_DELAY = 2.0  # seconds after which a bar shows that work goes on, where there is mostly none to show
