"""What merges are made of: masks and their training, fusion, curvature, inputs of linear maps."""
