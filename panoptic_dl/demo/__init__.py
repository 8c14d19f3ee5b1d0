"""`mode=demo` and `Predictor`: predictions for images, folders, videos and cameras."""
