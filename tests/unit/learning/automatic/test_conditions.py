from tunetrail.learning.automatic.conditions import length_class, machine_conditions
from tunetrail.learning.devices import CPU


def test_rows_of_similar_length_have_one_class() -> None:
    assert length_class([5, 60, 120]) == length_class([7, 50, 128]) == [7, 6]
    assert length_class([5, 60, 200]) != length_class([5, 60, 120])


def test_the_machine_is_plain_values() -> None:
    assert machine_conditions(CPU) == machine_conditions(CPU)
    assert all(isinstance(value, str | int) for value in machine_conditions(CPU))
