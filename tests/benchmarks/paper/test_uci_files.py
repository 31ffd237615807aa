"""Every data set of UCI is read cell by cell; what is wrong in a file is said with its line."""

import pytest

from benchmarks.paper.uci_descriptions import UCI
from benchmarks.paper.uci_files import read

HCV_HEADER = '"","Category","Age","Sex","ALB","ALP","ALT","AST","BIL","CHE","CHOL","CREA","GGT","PROT"'
DIABETES_HEADER = (
    "Age,Gender,Polyuria,Polydipsia,sudden weight loss,weakness,Polyphagia,Genital thrush,visual blurring,"
    "Itching,Irritability,delayed healing,partial paresis,muscle stiffness,Alopecia,Obesity,class"
)
MESSIDOR_HEADER = ["@relation dr", "", "@attribute 0 numeric", "@attribute Class {0,1}", "", "@data"]
BANDS = (  # two rows but for their ends
    "19910203,X12,SHOP,20000,YES,KEY,YES,BENTON,GALLATIN,UNCOATED,UNCOATED,NO,LINE,YES,Motter94,821,2,"
    "TABLOID,NorthUS,1911,51,41,0.5,12,71,0.25,21,11.5,1500,51.5,31.5,1,2,2.25,3,31,41,101,99,band",
    "19920207,x7,?,7,?,KeY,yes,benton,GallaTIN,super,COVER,no,?,no,WOODHOE70,815,10,"
    "Catalog,CANAdiAN,?,?,40,?,16,80,?,33,6.25,1800,53.5,33.5,0,4,2.75,0.5,30,32,103.5,?,noband",
)
BANDS_ROWS = [
    (
        *("yes", "key", "yes", "benton", "gallatin", "uncoated", "uncoated", "no", "line", "yes", "motter94"),
        *("821", "2", "tabloid", "northus", "1911"),
        *(51, 41, 0.5, 12, 71, 0.25, 21, 11.5, 1500, 51.5, 31.5, 1, 2, 2.25, 3, 31, 41, 101, 99),
    ),
    (
        *("?", "key", "yes", "benton", "gallatin", "super", "cover", "no", "?", "no", "woodhoe70"),
        *("815", "10", "catalog", "canadian", "?"),
        *(None, 40, None, 16, 80, None, 33, 6.25, 1800, 53.5, 33.5, 0, 4, 2.75, 0.5, 30, 32, 103.5, None),
    ),
]
EXAMPLES = {  # name: lines of the file, rows, classes
    "abalone": (
        ["M,0.45,0.36,0.09,0.51,0.22,0.10,0.15,8", "I,1,0,1,1,1,1,1,10", "F,1,1,1,1,1,1,2,29"],
        [
            ("m", 0.45, 0.36, 0.09, 0.51, 0.22, 0.1, 0.15),
            ("i", 1, 0, 1, 1, 1, 1, 1),
            ("f", 1, 1, 1, 1, 1, 1, 2),
        ],
        [0, 1, 2],
    ),
    "bands": (BANDS, BANDS_ROWS, [0, 1]),
    "crx": (
        ["b,21.33,1,u,g,w,v,1.5,t,t,03,f,g,00204,7,+", "?,?,.5,?,?,?,?,2,f,f,0,t,s,?,560,-"],
        [
            ("b", 21.33, 1, "u", "g", "w", "v", 1.5, "t", "t", 3, "f", "g", 204, 7),
            ("?", None, 0.5, "?", "?", "?", "?", 2, "f", "f", 0, "t", "s", None, 560),
        ],
        [0, 1],
    ),
    "dermatology": (
        ["2," * 33 + "55,6", "3," * 33 + "?,1"],
        [(2,) * 33 + (55,), (3,) * 33 + (None,)],
        [5, 0],
    ),
    "diabetes_data_upload": (
        [DIABETES_HEADER, "40,Male," + "No,Yes," * 7 + "Positive", "58,female," + "Yes,no," * 7 + "Negative"],
        [(40, "male", *("no", "yes") * 7), (58, "female", *("yes", "no") * 7)],
        [1, 0],
    ),
    "fertility": (
        ["-0.33,0.61,0,1,0,1,0.6,0,0.81,N", "1,0.94,1,0,1,-1,0.8,1,0.31,O"],
        [(-0.33, 0.61, 0, 1, 0, 1, 0.6, 0, 0.81), (1, 0.94, 1, 0, 1, -1, 0.8, 1, 0.31)],
        [0, 1],
    ),
    "haberman": (["30,64,5,1", "31,62,0,2"], [(30, 64, 5), (31, 62, 0)], [0, 1]),
    "hayes-roth": (
        ["92,2,1,4,3,1", "10,1,2,3,4,3"],
        [("2", "1", "4", "3"), ("1", "2", "3", "4")],
        [0, 2],
    ),
    "hcv": (
        [
            HCV_HEADER,
            '"1","0=Blood Donor",31,"m",30.5,50.5,8.5,20.5,9.5,5.75,3.25,100,10.5,60',
            '"2","3=Cirrhosis",52,"f",33,NA,17.5,200.5,44,5.25,NA,130.5,111.5,NA',
            '"3","0s=suspect Blood Donor",41,"m",25.5,120,70.5,40.5,2.5,6.25,4.5,150,300,50.5',
        ],
        [
            (31, "m", 30.5, 50.5, 8.5, 20.5, 9.5, 5.75, 3.25, 100, 10.5, 60),
            (52, "f", 33, None, 17.5, 200.5, 44, 5.25, None, 130.5, 111.5, None),
            (41, "m", 25.5, 120, 70.5, 40.5, 2.5, 6.25, 4.5, 150, 300, 50.5),
        ],
        [0, 4, 1],
    ),
    "heart_cleveland": (
        [
            "51.0,1.0,1.0,141.0,211.0,1.0,2.0,151.0,0.0,2.5,3.0,2.0,6.0,0",
            "42.0,0.0,2.0,122.0,202.0,0.0,0.0,162.0,0.0,1.5,1.0,?,?,4",
        ],
        [
            (51, 1, "1.0", 141, 211, 1, "2.0", 151, 0, 2.5, "3.0", 2, "6.0"),
            (42, 0, "2.0", 122, 202, 0, "0.0", 162, 0, 1.5, "1.0", None, "?"),
        ],
        [0, 1],
    ),
    "letter-recognition": (
        ["T" + ",2" * 15 + ",8", "A" + ",15" * 16],
        [(2,) * 15 + (8,), (15,) * 16],
        [19, 0],
    ),
    "messidor": (
        [*MESSIDOR_HEADER, "1," * 17 + "0.125,1,0", "% a comment", "", "0," * 17 + "14.5,0,1"],
        [(1,) * 17 + (0.125, 1), (0,) * 17 + (14.5, 0)],
        [0, 1],
    ),
    "optdigits": (["16," * 64 + "0"], [(16,) * 64], [0]),
    "pendigits": ([" 47,100,  0" + ",  7" * 13 + ", 8"], [(47, 100, 0, *(7,) * 13)], [8]),
}


def test_every_data_set_has_an_example():
    assert EXAMPLES.keys() == UCI.keys()


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("ending", ("\n", "\r\n", "\n\n"))
def test_cells(tmp_path, name, ending):
    lines, rows, classes = EXAMPLES[name]
    for file in UCI[name].files:
        (tmp_path / file).write_bytes("".join(line + ending for line in lines).encode())
    parts = len(UCI[name].files)
    assert read(UCI[name], tmp_path) == (list(rows) * parts, classes * parts)


def test_blanks_around_a_cell_do_not_count(write):
    folder = write("haberman.data", ['  30 ,64\t, "1" ,"2 " ', "   "])
    assert read(UCI["haberman"], folder) == ([(30, 64, 1)], [1])


def test_a_missing_nominal_value_stays_the_marker(write):
    line = '"1","1=Hepatitis",31,NA' + ",1" * 10
    folder = write("hcvdat0.csv", [HCV_HEADER, line, line.replace("NA", '"na"')])
    assert [row[1] for row in read(UCI["hcv"], folder)[0]] == ["NA", "na"]


@pytest.mark.parametrize("rings", range(1, 30))
def test_rings_of_abalone(write, rings):
    folder = write("abalone.data", ["M" + ",1" * 7 + f",{rings}"])
    assert read(UCI["abalone"], folder)[1] == [0 if rings <= 8 else 1 if rings <= 10 else 2]


def test_files_are_joined_in_their_order(write):
    write("pendigits.tra", ["1," * 16 + "3", "2," * 16 + "4"])
    folder = write("pendigits.tes", ["3," * 16 + "5"])
    assert read(UCI["pendigits"], folder) == ([(1,) * 16, (2,) * 16, (3,) * 16], [3, 4, 5])


@pytest.mark.parametrize("name, lines, line, message", [
    ("haberman", ["30,64,1,1", "30,64,1"], 2, "4 cells expected, got 3"),
    ("haberman", ["30,64,1,1", "", "30,64,1,1,1"], 3, "4 cells expected, got 5"),
    ("haberman", ["30;64;1;1"], 1, "4 cells expected, got 1"),
    ("haberman", ["age,year,nodes,1"], 1, "column 1 must be a number, got 'age'"),
    ("haberman", ["30,?,1,1"], 1, r"column 2 must be a number, got '\?'"),
    ("haberman", ["30,64,nan,1"], 1, "column 3 must be a number, got 'nan'"),
    ("haberman", ["30,64,-inf,1"], 1, "column 3 must be a number, got '-inf'"),
    ("haberman", ["30, ,1,1"], 1, "column 2 is empty"),
    ("haberman", ["30,64,1,3"], 1, "column 4 must be a class of 1, 2, got '3'"),
    ("haberman", ['"30,64,1,1', "30,64,1,1"], 1, "4 cells expected, got 1"),
    ("haberman", ['"30\n",64,1,1', "30,64,1"], 3, "4 cells expected, got 3"),
    ("haberman", ["30,64," + "1" * 200_000 + ",1"], 1, "field larger than field limit"),
    ("dermatology", ["2," * 33 + "NA,6"], 1, r"column 34 must be a number or \?, got 'NA'"),
    ("abalone", [",1,1,1,1,1,1,1,1"], 1, "column 1 is empty"),
    ("hcv", EXAMPLES["hcv"][0][1:], 1, "column 2 of the header must be 'Category'"),
    ("hcv", ["Category"], 1, "column 2 of the header must be 'Category'"),
    ("hcv", [*EXAMPLES["hcv"][0], '"7"'], 5, "14 cells expected, got 1"),
    ("messidor", [*MESSIDOR_HEADER, "", "1," * 19 + "0", "1,2"], 9, "20 cells expected, got 2"),
])  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(write, name, lines, line, message):
    file = UCI[name].files[0]
    folder = write(file, lines)
    with pytest.raises(ValueError, match=f"{file}, line {line}: {message}"):
        read(UCI[name], folder)


def test_arff_without_data(write):
    folder = write("messidor_features.arff", MESSIDOR_HEADER[:-1])
    with pytest.raises(ValueError, match="messidor_features.arff: no line @data"):
        read(UCI["messidor"], folder)


def test_missing_folder_and_file(tmp_path, write):
    with pytest.raises(FileNotFoundError, match="folder must be the folder of UCI's files, got .*nowhere"):
        read(UCI["haberman"], tmp_path / "nowhere")
    folder = write("pendigits.tra", ["1,2"])  # wrong, but missing files are reported first
    with pytest.raises(FileNotFoundError, match="pendigits.tes, which does not exist"):
        read(UCI["pendigits"], folder)


@pytest.mark.parametrize("name", UCI)
def test_descriptions_are_consistent(name):
    known = UCI[name]
    others = {known.label, *known.identifiers}
    assert others <= set(range(1, known.columns + 1))
    assert set(known.nominal) <= set(known.features)
    assert sorted({*known.features} | others) == list(range(1, known.columns + 1))
    labels = [label for names in known.classes for label in names]
    assert len(labels) == len(set(labels)) and len(known.classes) >= 2
