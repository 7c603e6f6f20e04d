"""What a call of the estimator does, in turn: validate, scale, train, store, predict."""
