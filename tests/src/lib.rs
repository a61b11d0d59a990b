//! Black-box tests: journeys, storms, crash rounds, tidy, layering.
