"""What ``mistere distill`` does: steps of the student, its bundle, its figures beside the teacher's."""
