"How hypothesis looks for examples: few, and the same ones in every run."
from hypothesis import Phase, settings

settings.register_profile('book', max_examples=20, deadline=None, derandomize=True)
settings.register_profile('mutants', settings.get_profile('book'), max_examples=8,
                          phases=[Phase.generate])
settings.load_profile('book')
