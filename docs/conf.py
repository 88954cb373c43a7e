"How `make html` turns the notebooks, as they are stored, into pages that can be read without a kernel or a network."
import os

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
nb_render_markdown_format = 'gfm'  # so that computed tables are tables
nb_mime_priority_overrides = [('html', 'application/vnd.jupyter.widget-view+json', None)]
nb_code_prompt_show = 'Show {type}'
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 3
pygments_style = 'friendly'
pygments_dark_style = 'github-dark'
suppress_warnings = ['mystnb.unknown_mime_type']
html_favicon = 'favicon.svg'
html_static_path = ['book.css']
html_css_files = ['book.css']
html_extra_path = ['extra']  # the notebooks, to be downloaded as they are
exclude_patterns = ['extra']
words = 'Guidance in diffusion models, from points in the plane to ImageNet: a textbook that runs.'
address = os.environ.get('BOOK_ADDRESS', '')  # where the pages will be, by build.py; a card needs all of it
myst_html_meta = {'description': words, 'property=og:title': project, 'property=og:description': words, 'property=og:type': 'book',
                  'property=og:image': f'{address}card.png', 'name=twitter:card': 'summary_large_image'}
