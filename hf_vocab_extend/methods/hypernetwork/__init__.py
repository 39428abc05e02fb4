"""Networks that predict a token's row from the vectors of the words that hold it.

``bags``: words of tokens; ``coordinates``: rows of a table as numbers to predict; ``base``: what has a closed form;
``networks`` and ``losses``: tables of both; ``training``: how they meet; ``storage``: files.
"""
