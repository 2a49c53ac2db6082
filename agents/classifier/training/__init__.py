"""How the classifier learns: from the labelled data that the project carries, and from outcomes of its own traffic."""
