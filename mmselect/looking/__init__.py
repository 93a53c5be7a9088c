"""The page of the picks: what a person sees before labeling."""
