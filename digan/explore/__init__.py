"""The page of `digan explore`: a trained generator as a function of x, y and t, live in a browser."""
