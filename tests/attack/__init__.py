"""An attack on training and generation: kills, failing disks, damage and signals, and after each
the same end, byte for byte, as without.

    python tests/attack             all of it, about ten minutes on a core of its own
    python tests/attack --quick     a sample of each kind, about a minute
    python tests/attack --only generate --out x.json     kinds whose name has this in it

PyTorch is imported once, and each attack is a fork of this process (process.py), which trains a
tiny network or draws a few pictures (targets.py) in a folder of its own. A library that is
preloaded (shim.c) counts its file calls, those of PyTorch and safetensors too, and kills it or
fails at a chosen one. Then a second fork goes on undisturbed, and what it leaves is compared with
an uninterrupted run: weights, averages, optimizer, buffers, log and names of files. Faults are
printed as they are found; the exit status is 1 if there are any. Linux alone has what this needs.
"""
