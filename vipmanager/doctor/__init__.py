"""`vipmanager doctor`: looks at everything that the mode needs, and says how to mend what is wrong."""
