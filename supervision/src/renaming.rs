//! Other numbers for ids in what is stored: how an event of one installation, or of one tenant,
//! becomes the same event of another.
//!
//! An id is stored as a newtype of a number, under its type's name. A [`Renaming`] passes a value
//! on to whatever encodes it, and where it meets an id of a type and number that it knows it gives
//! the other number. So it needs to know nothing of the events, and a user is never taken for a
//! tenant that happens to have the same number.
//!
//! Deliberate limit: an id in a text, in JSON or in the name of a stream is not met.

use std::collections::HashMap;

use persistence::{CodecError, codec};
use serde::de::DeserializeOwned;
use serde::ser;
use serde::{Serialize, Serializer};

/// Which ids get which numbers. See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renaming {
    numbers: HashMap<(&'static str, u128), u128>,
}

impl Renaming {
    /// From now on the id `old` of the type `name` is `new`.
    pub fn add(&mut self, name: &'static str, old: u128, new: u128) {
        if old != new {
            self.numbers.insert((name, old), new);
        }
    }

    /// What an id is from now on.
    pub fn get(&self, name: &'static str, old: u128) -> u128 {
        self.numbers.get(&(name, old)).copied().unwrap_or(old)
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The value with its ids renamed. An error when it does not encode, or is none then.
    pub fn apply<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<T, CodecError> {
        let renamed = Renamed { value, within: Within { renaming: self, id: None } };
        codec::decode(&codec::encode(&renamed)?)
    }
}

/// Where in a value the encoder is.
#[derive(Clone, Copy)]
struct Within<'a> {
    renaming: &'a Renaming,
    /// The type of the id whose number comes next.
    id: Option<&'static str>,
}

struct Renamed<'a, T: ?Sized> {
    value: &'a T,
    within: Within<'a>,
}

impl<T: Serialize + ?Sized> Serialize for Renamed<'_, T> {
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Renamer { inner, within: self.within })
    }
}

struct Renamer<'a, S> {
    inner: S,
    within: Within<'a>,
}

/// The parts of a list, map or structure on their way.
struct Parts<'a, C> {
    inner: C,
    renaming: &'a Renaming,
}

/// A part of something: no id's number itself.
fn part<'a, T: ?Sized>(renaming: &'a Renaming, value: &'a T) -> Renamed<'a, T> {
    Renamed { value, within: Within { renaming, id: None } }
}

macro_rules! plain {
    ($($method:ident($type:ty);)*) => {
        $(fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        })*
    };
}

impl<'a, S: Serializer> Serializer for Renamer<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Parts<'a, S::SerializeSeq>;
    type SerializeTuple = Parts<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Parts<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Parts<'a, S::SerializeTupleVariant>;
    type SerializeMap = Parts<'a, S::SerializeMap>;
    type SerializeStruct = Parts<'a, S::SerializeStruct>;
    type SerializeStructVariant = Parts<'a, S::SerializeStructVariant>;

    plain! {
        serialize_bool(bool); serialize_i8(i8); serialize_i16(i16); serialize_i32(i32);
        serialize_i64(i64); serialize_i128(i128); serialize_u8(u8); serialize_u16(u16);
        serialize_u32(u32); serialize_u64(u64); serialize_f32(f32); serialize_f64(f64);
        serialize_char(char); serialize_str(&str); serialize_bytes(&[u8]);
        serialize_unit_struct(&'static str);
    }

    fn serialize_u128(self, value: u128) -> Result<S::Ok, S::Error> {
        let id = self.within.id;
        let renamed = id.map_or(value, |name| self.within.renaming.get(name, value));
        self.inner.serialize_u128(renamed)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&part(self.within.renaming, value))
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let within = Within { id: Some(name), ..self.within };
        self.inner.serialize_newtype_struct(name, &Renamed { value, within })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = part(self.within.renaming, value);
        self.inner.serialize_newtype_variant(name, index, variant, &value)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        let renaming = self.within.renaming;
        Ok(Parts { inner: self.inner.serialize_seq(length)?, renaming })
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        let renaming = self.within.renaming;
        Ok(Parts { inner: self.inner.serialize_tuple(length)?, renaming })
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        let renaming = self.within.renaming;
        Ok(Parts { inner: self.inner.serialize_tuple_struct(name, length)?, renaming })
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let renaming = self.within.renaming;
        let inner = self.inner.serialize_tuple_variant(name, index, variant, length)?;
        Ok(Parts { inner, renaming })
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let renaming = self.within.renaming;
        Ok(Parts { inner: self.inner.serialize_map(length)?, renaming })
    }

    fn serialize_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        let renaming = self.within.renaming;
        Ok(Parts { inner: self.inner.serialize_struct(name, length)?, renaming })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let renaming = self.within.renaming;
        let inner = self.inner.serialize_struct_variant(name, index, variant, length)?;
        Ok(Parts { inner, renaming })
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! lists {
    ($($trait:ident::$method:ident;)*) => {
        $(impl<C: ser::$trait> ser::$trait for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                self.inner.$method(&part(self.renaming, value))
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        })*
    };
}

lists! {
    SerializeSeq::serialize_element;
    SerializeTuple::serialize_element;
    SerializeTupleStruct::serialize_field;
    SerializeTupleVariant::serialize_field;
}

macro_rules! structures {
    ($($trait:ident),*) => {
        $(impl<C: ser::$trait> ser::$trait for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), C::Error> {
                self.inner.serialize_field(name, &part(self.renaming, value))
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        })*
    };
}

structures!(SerializeStruct, SerializeStructVariant);

impl<C: ser::SerializeMap> ser::SerializeMap for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.inner.serialize_key(&part(self.renaming, key))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.inner.serialize_value(&part(self.renaming, value))
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    struct Red(u128);
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    struct Blue(u128);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        New(Red),
        Tuple(Red, u128),
        Struct { red: Red, bare: u128 },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Everything {
        red: Red,
        blue: Blue,
        bare: u128,
        maybe: Option<Red>,
        shapes: Vec<Shape>,
        by_red: BTreeMap<Red, (Blue, Red)>,
        text: String,
        small: (bool, i64, u8, char, [u8; 3]),
    }

    fn everything(red: u128, blue: u128) -> Everything {
        let (red, blue) = (Red(red), Blue(blue));
        Everything {
            red,
            blue,
            bare: 7,
            maybe: Some(red),
            shapes: vec![
                Shape::Unit,
                Shape::New(red),
                Shape::Tuple(red, 7),
                Shape::Struct { red, bare: 7 },
            ],
            by_red: BTreeMap::from([(red, (blue, red)), (Red(9), (Blue(9), Red(9)))]),
            text: "7".to_owned(),
            small: (true, -7, 7, '7', [7; 3]),
        }
    }

    #[test]
    fn ids_of_one_type_are_renamed_wherever_they_are_and_nothing_else_is() {
        let mut renaming = Renaming::default();
        assert_eq!(renaming.apply(&everything(7, 7)).unwrap(), everything(7, 7));
        renaming.add("Red", 7, 8);
        assert_eq!(renaming.apply(&everything(7, 7)).unwrap(), everything(8, 7));
        renaming.add("Blue", 7, 6);
        assert_eq!(renaming.apply(&everything(7, 7)).unwrap(), everything(8, 6));
        assert_eq!((renaming.get("Red", 7), renaming.get("Red", 6)), (8, 6));
    }
}
