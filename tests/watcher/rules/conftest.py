from hypothesis import Phase, settings

# For `tests.mutants`: few examples, the same at every run, and any failure will do.
settings.register_profile(
    "mutants", max_examples=40, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate]
)
