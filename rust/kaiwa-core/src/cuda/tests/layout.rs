//! Arguments lie where C has them.

use super::super::args::ALL;
use super::super::sim::field;

#[test]
fn every_field_lies_where_the_kernels_read_it() {
    for (record, size, places) in ALL {
        for (index, place) in places.iter().enumerate() {
            let found = field(record, index).unwrap_or_else(|| panic!("{record} {}", place.name));
            let wanted = (place.name.to_owned(), place.offset, place.size, *size);
            assert_eq!(found, wanted, "{record}");
        }
        assert_eq!(
            field(record, places.len()),
            None,
            "{record} has more fields"
        );
    }
    assert_eq!(field("NoArgs", 0), None);
}
