"""What is on disk: the case table, its readers, images and masks, splits and checks."""
