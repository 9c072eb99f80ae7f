"""Texts that are no UTF-8: the error says in which encoding they read, and what to do."""

import gzip

import pytest

from modelwright.core.errors import DataError
from modelwright.data import opening, tables

CHINESE = "text,label\n" + "股票上涨银行,财经\n球队比赛进球,体育\n" * 20
FRENCH = "text,label\n" + "déjà vu à l'été,a\nrien de neuf,b\n" * 20


@pytest.mark.parametrize(
    ("text", "encoding", "wanted"),
    [
        (CHINESE, "gb18030", "GB18030"),
        (CHINESE, "utf-16", "UTF-16"),
        (FRENCH, "utf-16-le", "UTF-16LE"),
        (FRENCH, "utf-16-be", "UTF-16BE"),
        (FRENCH, "cp1252", "WINDOWS-1252"),
        ("Привет, как дела? " * 20, "cp1251", ""),
    ],
)
def test_the_likeliest_encoding_is_named(tmp_path, text, encoding, wanted):
    """By what the bytes look like; none where nothing fits."""
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))

    assert wanted == opening.encoding_of(path.read_bytes())
    with pytest.raises(DataError, match=r"t\.csv cannot be read") as caught:
        list(tables.records(path, ("text", "label")))
    assert f"iconv -f {wanted or 'ENCODING'} -t UTF-8 t.csv > NEW" in caught.value.repair
    with pytest.raises(DataError) as caught:
        opening.utf8(path.read_bytes())
    assert f"iconv -f {wanted or 'ENCODING'} -t UTF-8 FILE" in caught.value.repair


def test_a_packed_file_is_unpacked_first(tmp_path):
    """In the command, as in the look at its bytes."""
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(CHINESE.encode("gb18030")))

    with pytest.raises(DataError) as caught:
        list(tables.lines_of(path))
    assert "gunzip -c t.csv.gz | iconv -f GB18030 -t UTF-8 > NEW" in caught.value.repair
