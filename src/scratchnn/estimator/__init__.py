"""One call of the estimator: validation, parameters, fitting, fitted attributes and predictions."""
