"Details that the laws do not reach."
