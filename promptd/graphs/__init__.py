"""Names: what a graph's model is (references, the catalog), where its file is (the store), and which graphs there are
(the registry).
"""
