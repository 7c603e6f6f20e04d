"""From X and y, as users have them, to tensors: columns, categories, missing values, bins, scales and targets."""
