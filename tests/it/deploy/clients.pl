# Perl's own client: it says what it hears; see clients.py.
use strict;
use warnings;
use HTTP::Tiny;

$| = 1;
my $first;
my $hear = sub {
    my ($chunk, $answer) = @_;
    $first //= $answer;
    # An answer that breaks off between two chunks it repeats by itself, once.
    if ($first != $answer) { print "\n= error: it asks again\n"; exit; }
    print $chunk;
};
my $answer = HTTP::Tiny->new(timeout => 600)->get($ARGV[0], { data_callback => $hear });
print $answer->{success} ? "\n= end\n" : "\n= error $answer->{status} $answer->{content}\n";
