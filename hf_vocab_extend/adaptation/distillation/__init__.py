"""Row distillation: a short refinement of the new rows alone, from the untouched model as the teacher."""
