# Upon a family's functions. Installs the packages in $1 at once; where that fails, one
# after another, so that one that the release does not have keeps no other away. Those
# that it goes without are named. Fails when the archive does not answer.
refresh || exit
prepare "$1"
names=" $(echo $(known "$1")) "
wanted= lacking=
for package in $1; do
    case $names in
    *" $package "*) wanted="$wanted $package" ;;
    *) lacking="$lacking $package" ;;
    esac
done
added= failed= row=0
if [ -n "$wanted" ] && ! add "$wanted"; then
    for package in $wanted; do
        # Three in a row: it is not the packages.
        if [ $row -lt 3 ] && add $package; then
            added=1 row=0
        else
            failed="$failed $package" row=$((row + 1))
        fi
    done
fi
finish
[ -z "$lacking$failed" ] || echo "this release does not have:$lacking$failed" >&2
[ -z "$failed" ] || [ -n "$added" ]
