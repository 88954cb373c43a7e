"How hypothesis looks for examples, and that no test finds a module which another one wrote."
import sys

import pytest
from hypothesis import Phase, settings

settings.register_profile('book', max_examples=20, deadline=None, derandomize=True)
settings.register_profile('mutants', settings.get_profile('book'), max_examples=8,
                          phases=[Phase.generate])
settings.load_profile('book')


@pytest.fixture(autouse=True)
def forgotten_modules(tmp_path_factory):
    "What a test imported from its own folder is forgotten after it."
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if str(getattr(module, '__file__', '')).startswith(written): del sys.modules[name]
