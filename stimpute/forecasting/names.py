"""What the forecasters are called, for those who ask for them by name. Loads no network and no torch."""

GUESSES = (
    "persistence",
    "climate",
    "last cycle",
    "damped anomaly",
    "linear",
    "cycle ahead",
    "field of anomalies",
    "changes",
    "short changes",
    "wide changes",
    "dlinear",
    "ar",
    "near changes",
    "far changes",
)
METHODS = (
    "sba",
    "blend",
    *(guess.replace(" ", "-") for guess in GUESSES),
)  # that --method takes, the default first
