"The command: run benchmarks, print their tables, write their records."
import argparse
import sys
from pathlib import Path

import torch

from .equivalence import compared_shapes, equivalence, sampling_equivalence
from .forward import forward_cases
from .gpu import gpu_bench
from .others import checkout, is_installed
from .records import store, table
from .samplers import sampler_cases
from .timing import clock_of, report_failure, rounds, summary
from .training import MIDDLING, option_makers, training_makers

BENCHES = ('forward', 'training', 'options', 'samplers', 'equivalence', 'ADM64', 'ADM128', 'engine')


def cpu_bench(
    bench,  # "forward", "training", "options" or "samplers"
    module,  # of guided-diffusion, or None
    repeats,  # rounds
    compiled,  # whether to compile as well
):
    "One comparison on the processor: the facts of its record."
    if bench == 'forward':
        facts = dict(what='ADM64', batch=4, parameters=295_904_454)
        cases = forward_cases(compared_shapes()['ADM-64'], 4, 'cpu', module, compiled)
    elif bench in ('training', 'options'):
        facts = dict(what='MIDDLING', batch=16, parameters=7_995_267)
        makers = training_makers if bench == 'training' else option_makers
        cases = {name: make() for name, make
                 in makers(MIDDLING, 16, 'cpu', module, compiled).items()}
    else: facts, cases = dict(what='free', batch=64, steps=50), sampler_cases()
    clock = clock_of('cpu')
    return facts | dict(bench=bench, device='cpu', threads=torch.get_num_threads(), repeats=repeats,
                        clock=clock.__name__, cases=summary(rounds(cases, repeats, clock)))


def facts_of(
    bench,  # one of BENCHES
    asked,  # the options of the command: checkout, repeats, compiled
):
    """Run one bench: the facts of each of its records, one after the other; what fails on a GPU is
    said, and the rest goes on. Raises ValueError if it lacks what it needs."""
    module = checkout(asked.checkout) if asked.checkout else None
    if bench == 'equivalence':
        if not module:
            raise ValueError('equivalence needs --checkout, a checkout of guided-diffusion.')
        yield sampling_equivalence(asked.checkout)
        yield equivalence(asked.checkout)
        return
    if bench in ('ADM64', 'ADM128', 'engine'):
        if not torch.cuda.is_available(): raise ValueError(f'{bench} needs a GPU (CUDA).')
        for run, what in gpu_bench(bench, module, asked.repeats):
            try: yield dict(what=what) | run()
            except (RuntimeError, ValueError, OSError) as e: report_failure(what, e)
        return
    if bench == 'samplers' and not is_installed('diffusers'):
        raise ValueError("samplers needs the others to compare with: pip install '.[bench]'.")
    yield cpu_bench(bench, module, asked.repeats, asked.compiled)


def main(
    words=None,  # arguments of the command; None takes those of the program
):
    "Run benches, print their tables and write their records; 0, or 1 after a sentence."
    parser = argparse.ArgumentParser('python tests/bench', description=main.__doc__)
    parser.add_argument('bench', nargs='+', choices=BENCHES, help='what to run')
    parser.add_argument('--checkout', help='folder of a checkout of openai/guided-diffusion')
    parser.add_argument('--repeats', type=int, default=7, help='rounds, two or more')
    parser.add_argument('--compiled', action='store_true', help='compile ours as well; minutes')
    parser.add_argument('--commit', help='of the code, where there is no git to say it')
    parser.add_argument('--out', default='data/results/bench', help='where records go')
    asked = parser.parse_args(words)
    if asked.repeats < 2: parser.error('--repeats must be two or more, for there to be a spread')
    try:
        Path(asked.out).mkdir(parents=True, exist_ok=True)
        for bench in asked.bench:
            for facts in facts_of(bench, asked):
                facts |= dict(command=command_of(bench, asked))
                if asked.commit: facts |= dict(commit=asked.commit)
                path = store(asked.out, facts)
                sys.stdout.write(table(facts) + f'\n{path}\n\n')
    except (ValueError, OSError, ImportError, RuntimeError) as e:
        sys.stderr.write(f'{(str(e) or type(e).__name__).splitlines()[0]}\n')
        return 1
    return 0


def command_of(
    bench,  # one of BENCHES
    asked,  # the options of the command
):
    "The command that makes this record, without the folders of this machine."
    options = [f'--repeats {asked.repeats}', *['--checkout CHECKOUT']*bool(asked.checkout)]
    return ' '.join(['python tests/bench', bench, *options,
                     *['--compiled']*asked.compiled])
