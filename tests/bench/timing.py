"Times that can be trusted: several programs in turns, or each alone on a GPU."
import gc
import sys
import time
from statistics import median, quantiles

import torch


def clock_of(
    device,  # "cpu" or "cuda"
):
    "A clock in seconds: time at work for one thread of a processor, else time on the wall."
    if str(device).startswith('cuda'):
        def waited():
            torch.cuda.synchronize()
            return time.perf_counter()
        return waited
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def rounds(
    cases,  # name -> function without arguments
    repeats=5,  # number of rounds
    clock=time.process_time,  # () -> seconds
):
    "Seconds of each call, name -> list: each case once a round, after one call not counted."
    seconds = {name: [] for name in cases}
    for f in cases.values(): f()
    for _ in range(repeats):
        for name, f in cases.items():
            start = clock()
            f()
            seconds[name].append(clock() - start)
    return seconds


def summary(
    seconds,  # name -> list of seconds, as from `rounds`
):
    """name -> its median seconds and how many times as fast as the first case it is, round by
    round: the median ratio, and the quartiles of the ratio."""
    first, found = next(iter(seconds.values())), {}
    for name, own in seconds.items():
        low, middle, high = quantiles([a/b for a, b in zip(first, own)], n=4, method='inclusive')
        found[name] = dict(median=median(own), ratio=middle, ratio_low=low, ratio_high=high)
    return found


def timed_alone(
    name,  # what is timed, for the message if it fails
    make,  # a function that makes a function without arguments
    repeats,  # rounds
    device,  # where
):
    """Seconds of the calls, and the largest memory in use meanwhile, in bytes (0 on a processor);
    both None if the GPU has too little. What others left on it is removed before."""
    gc.collect()
    cuda = str(device).startswith('cuda')
    if cuda: torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
    try: seconds = rounds({'it': make()}, repeats, clock_of(device))['it']
    except torch.OutOfMemoryError: return None, None
    except RuntimeError as e:  # one way that does not work here must not end the others
        report_failure(name, e)
        return None, None
    return seconds, torch.cuda.max_memory_allocated() if cuda else 0


def largest_batch(
    make,  # batch -> a function that makes a function without arguments
    device,  # where
    begin=8,  # batch to begin with
    end=4096,  # and to end with
):
    "The largest batch, doubling, for which the memory is enough, and its bytes; (0, 0) for none."
    fits = 0, 0
    while begin <= end:
        seconds, memory = timed_alone(f'a batch of {begin}', make(begin), 1, device)
        if seconds is None: break
        fits, begin = (begin, memory), 2*begin
    return fits


def report_failure(
    what,  # which part of a bench
    e,  # its error
):
    "Say in a line that a part has failed."
    sys.stderr.write(f'{what} failed: {(str(e) or type(e).__name__).splitlines()[0]}\n')
