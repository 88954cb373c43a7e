"IPython's configuration of the book's kernels, which `make setup` puts into .venv: what a name that is not there may mean."
c = get_config()
c.InteractiveShellApp.exec_lines = ["""
def _missing(shell, kind, error, trace, tb_offset=None):
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
    print('Has the kernel started anew? Then run the cells above first: menu Run, Run All Above Selected Cell.')
get_ipython().set_custom_exc((NameError,), _missing)
del _missing
"""]
