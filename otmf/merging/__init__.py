"""What merges are made of: masks, fusion, curvature, the inputs of linear maps."""
