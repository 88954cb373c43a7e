"Benchmarks, not part of the library: `python tests/bench --help`."
