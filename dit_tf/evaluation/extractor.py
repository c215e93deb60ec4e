"""Images -> the features that they are compared by."""

FEATURES = ("inception", "pixels")
