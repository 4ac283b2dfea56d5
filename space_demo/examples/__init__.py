"""The examples of the page, which are simulated: no recording of anyone comes with it."""
