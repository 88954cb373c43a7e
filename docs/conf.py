"How `make html` turns the notebooks, as they are stored, into pages that can be read without a kernel or a network."
project = 'Guidance in diffusion models'
author = 'The cfg_lessons authors'
copyright = author
extensions = ['myst_nb', 'sphinx-mathjax-offline']
root_doc = 'index'
html_theme = 'furo'
html_title = project
html_show_sourcelink = False
html_copy_source = False
nb_execution_mode = 'off'  # the outputs are those that the book's own tests have made
nb_merge_streams = True
nb_mime_priority_overrides = [('html', 'application/vnd.jupyter.widget-view+json', None)]
nb_code_prompt_show = 'Show {type}'
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 3
pygments_style = 'friendly'
suppress_warnings = ['mystnb.unknown_mime_type']
